# Run as: Rscript --vanilla main.R JOB, where JOB is a folder with job.bin: rows of (field, name,
# value). It answers with flows.bin or result.bin, notes.bin, and error.bin, in the same folder.
local({
  options(keep.source = TRUE, warn = 1, stringsAsFactors = FALSE)
  here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE)[1L]))
  shoal <- new.env(parent = baseenv())
  for (part in c("bigint.R", "exchange.R", "declare.R")) {
    sys.source(file.path(here, part), shoal, keep.source = FALSE)
  }
  public <- c("bigint", "materialized_view", "streaming_table", "stream", "source")
  attach(mget(public, envir = shoal), name = "shoal", warn.conflicts = FALSE)

  folder <- commandArgs(TRUE)[1L]
  out <- function(frame, name) shoal$write_frame(frame, file.path(folder, name))
  state <- shoal$state
  notes <- character()

  # The line of the user's that is being evaluated: the innermost call that knows its source.
  place <- function(calls) {
    for (call in rev(calls)) {
      ref <- attr(call, "srcref")
      if (!is.null(ref)) {
        return(list(file = attr(ref, "srcfile")$filename, line = ref[1L]))
      }
    }
    list(file = state$file, line = state$line)
  }

  guarded <- function(expr) {
    found <- NULL
    tryCatch(
      withCallingHandlers(expr,
        warning = function(w) {
          at <- place(sys.calls())
          notes <<- unique(c(notes, sprintf("%s (%s:%s)", conditionMessage(w), at$file, at$line)))
          invokeRestart("muffleWarning")
        },
        error = function(e) found <<- place(sys.calls())
      ),
      error = function(e) {
        if (is.null(found)) found <- list(file = state$file, line = state$line)
        message <- enc2utf8(conditionMessage(e))
        out(data.frame(message = message, file = found$file, line = as.integer(found$line)), "error.bin")
        quit("no", status = 1L, runLast = FALSE)
      }
    )
  }

  # Evaluates a script; the last value, and the code that each of its declarations depends on.
  evaluate <- function(shown, path) {
    state$flows <- list()
    state$sourced <- character()
    state$file <- shown
    state$line <- 1L
    lines <- readLines(path, warn = FALSE, encoding = "UTF-8")
    script <- guarded(tryCatch(
      parse(text = lines, srcfile = srcfilecopy(shown, lines), keep.source = TRUE),
      error = function(e) {
        text <- conditionMessage(e)
        spot <- regmatches(text, regexec(":([0-9]+):[0-9]+: ([^\n]*)", text))[[1L]]
        if (length(spot)) state$line <- as.integer(spot[2L])
        stop(if (length(spot)) spot[3L] else text, call. = FALSE)
      }
    ))
    env <- new.env(parent = globalenv())
    made <- list()
    value <- NULL
    for (index in seq_along(script)) {
      state$line <- attr(script, "srcref")[[index]][1L]
      before <- length(state$flows)
      value <- guarded(eval(script[[index]], env))
      made[[index]] <- seq_len(length(state$flows) - before) + before
    }
    code <- function(flow) {
      uses <- vapply(made, function(x) length(x) == 0L || flow %in% x, NA)
      text <- unlist(lapply(script[uses], deparse))
      paste(enc2utf8(c(text, state$sourced)), collapse = "\n")
    }
    list(value = value, code = code)
  }

  job <- shoal$read_frame(file.path(folder, "job.bin"))
  task <- job[1L, ]
  if (task$field == "declare") {
    rows <- list()
    number <- 0L
    for (index in seq_len(nrow(job))[-1L]) {
      found <- evaluate(job$name[index], job$value[index])
      if (job$field[index] == "inline") {
        if (!is.function(found$value)) {
          guarded(stop("the R code must end with a function, as in function(flights) { ... }"))
        }
        labels <- strsplit(job$inputs[index], " ", fixed = TRUE)[[1L]]
        guarded(shoal$check_arguments(found$value, ifelse(labels == "?", "", labels), job$name[index]))
        state$flows <- list(list(rows = data.frame(field = "inline", name = "", value = job$name[index])))
      }
      for (flow in seq_along(state$flows)) {
        number <- number + 1L
        one <- rbind(
          state$flows[[flow]]$rows,
          data.frame(field = "code", name = "", value = found$code(flow))
        )
        rows[[number]] <- cbind(flow = number, one)
      }
    }
    none <- data.frame(flow = integer(), field = character(), name = character(), value = character())
    out(if (number) do.call(rbind, rows) else none, "flows.bin")
  } else {
    found <- evaluate(task$name, task$value)
    fun <- found$value
    if (task$field == "script") {
      targets <- vapply(state$flows, function(flow) flow$target, "")
      fun <- state$flows[[match(task$inputs, targets)]]$fun
    }
    start <- attr(fun, "srcref")
    if (!is.null(start)) state$line <- start[1L]
    tables <- new.env(parent = emptyenv())
    names <- job$name[-1L]
    symbols <- lapply(sprintf("table%d", seq_along(names)), as.name)
    for (index in seq_along(symbols)) {
      assign(as.character(symbols[[index]]), shoal$read_frame(job$value[index + 1L]), tables)
    }
    if (any(names != "")) names(symbols) <- names
    # By symbols: an error's call would else hold, and print, the tables themselves.
    value <- guarded(do.call(fun, symbols, envir = tables))
    guarded({
      if (!is.data.frame(value)) {
        stop(sprintf("the function returned %s; expected a data frame", paste(class(value), collapse = "/")))
      }
      out(value, "result.bin")
    })
  }
  if (length(notes)) out(data.frame(message = enc2utf8(notes)), "notes.bin")
})
