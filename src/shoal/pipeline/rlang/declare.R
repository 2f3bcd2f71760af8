# What R sources call: materialized_view, streaming_table, stream (and bigint); each declaration
# becomes rows of (flow, field, name, value), which declare.py reads.

state <- new.env()
state$flows <- list()
state$sourced <- character()
state$file <- "R"
state$line <- NA_integer_

stream <- function(table) list(structure(table, class = "stream"))

materialized_view <- function(
    name, inputs = character(), fun, comment = NULL, partition_by = NULL, schema = NULL,
    properties = NULL, expect = NULL, expect_or_drop = NULL, expect_or_fail = NULL, timeout = NULL) {
  add_flow("materialized view", name, inputs, fun, list(
    comment = comment, partition_by = partition_by, schema = schema, properties = properties,
    expect = expect, expect_or_drop = expect_or_drop, expect_or_fail = expect_or_fail,
    timeout = timeout
  ))
}

streaming_table <- function(
    name, inputs = character(), fun, comment = NULL, partition_by = NULL, schema = NULL,
    properties = NULL, expect = NULL, expect_or_drop = NULL, expect_or_fail = NULL, timeout = NULL) {
  add_flow("streaming table", name, inputs, fun, list(
    comment = comment, partition_by = partition_by, schema = schema, properties = properties,
    expect = expect, expect_or_drop = expect_or_drop, expect_or_fail = expect_or_fail,
    timeout = timeout
  ))
}

add_flow <- function(kind, name, inputs, fun, settings) {
  if (!is.character(name) || length(name) != 1L || is.na(name)) {
    stop("a table's name is one piece of text, as in \"gold.totals\"", call. = FALSE)
  }
  if (missing(fun) || !is.function(fun)) {
    stop(sprintf("'%s' has no function; end it with function(...) { ... }", name), call. = FALSE)
  }
  inputs <- lapply(as.list(inputs), function(x) if (is.list(x)) x[[1L]] else x)
  if (!all(vapply(inputs, function(x) is.character(x) && length(x) == 1L && !is.na(x), NA))) {
    stop(sprintf("the inputs of '%s' are no names of tables", name), call. = FALSE)
  }
  labels <- if (is.null(names(inputs))) rep("", length(inputs)) else names(inputs)
  check_arguments(fun, labels, name)
  named <- function(x) {
    x <- unlist(x)
    data.frame(
      name = if (is.null(names(x))) rep("", length(x)) else names(x),
      value = as.character(x), stringsAsFactors = FALSE
    )
  }
  rows <- list(
    data.frame(
      field = c("kind", "target", "file", "line"), name = "",
      value = c(kind, name, state$file, state$line), stringsAsFactors = FALSE
    )
  )
  for (index in seq_along(inputs)) {
    rows[[length(rows) + 1L]] <- data.frame(
      field = if (inherits(inputs[[index]], "stream")) "stream" else "input",
      name = labels[index], value = unclass(inputs[[index]]), stringsAsFactors = FALSE
    )
  }
  for (field in names(settings)) {
    if (length(settings[[field]])) {
      rows[[length(rows) + 1L]] <- cbind(field = field, named(settings[[field]]))
    }
  }
  state$flows[[length(state$flows) + 1L]] <- list(
    target = name, fun = fun, labels = labels, rows = do.call(rbind, rows)
  )
  invisible(fun)
}

check_arguments <- function(fun, labels, what) {
  takes <- names(formals(args(fun)))
  unknown <- setdiff(labels, c(takes, ""))
  if (!"..." %in% takes && (length(unknown) || length(labels) > length(takes))) {
    stop(sprintf(
      "the function of '%s' takes (%s); its inputs are (%s)", what,
      paste(takes, collapse = ", "), paste(ifelse(labels == "", "?", labels), collapse = ", ")
    ), call. = FALSE)
  }
  needed <- vapply(as.list(formals(args(fun))), function(x) identical(x, quote(expr = )), NA)
  open <- setdiff(takes[needed], c(labels, "..."))
  if (length(open) > sum(labels == "")) {
    stop(sprintf("no input is given for '%s' of '%s'", open[1L], what), call. = FALSE)
  }
}

# Notes what a source includes, so that a change there is a change of definition.
source <- function(file, ...) {
  if (is.character(file) && file.exists(file)) {
    state$sourced <- c(state$sourced, readLines(file, warn = FALSE, encoding = "UTF-8"))
  }
  call <- sys.call()
  call[[1L]] <- quote(base::source)
  eval.parent(call)
}
