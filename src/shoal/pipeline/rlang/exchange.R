# Data frames to and from files of plain columns; exchange.py is the other side.
#
# A file holds the numbers of columns and rows; then for each column its kind, its name, and its
# values: 4-byte integers or 8-byte doubles with R's own NA, text as lengths and bytes (UTF-8).
# All is little-endian. Text that comes in is coded: each string once, and its number per row.

KINDS <- c("logical", "integer", "double", "bigint", "Date", "POSIXct", "text", "integer64")

read_frame <- function(path) {
  con <- file(path, "rb")
  on.exit(close(con))
  ints <- function(n) readBin(con, "integer", n, endian = "little")
  doubles <- function(n) readBin(con, "double", n, endian = "little")
  text <- function(bytes) {
    value <- readChar(con, bytes, useBytes = TRUE)
    Encoding(value) <- "UTF-8"
    value
  }
  size <- ints(2L)
  columns <- list()
  names <- character()
  for (index in seq_len(size[1L])) {
    head <- ints(2L)
    names[index] <- text(head[2L])
    columns[[index]] <- switch(KINDS[head[1L]],
      logical = as.logical(ints(size[2L])),
      integer = ints(size[2L]),
      double = doubles(size[2L]),
      bigint = bigint(doubles(size[2L])),
      Date = structure(doubles(size[2L]), class = "Date"),
      POSIXct = structure(doubles(size[2L]), class = c("POSIXct", "POSIXt"), tzone = "UTC"),
      text = {
        codes <- ints(size[2L])
        text(ints(ints(1L)))[codes]
      }
    )
  }
  structure(columns, names = names, row.names = .set_row_names(size[2L]), class = "data.frame")
}

write_frame <- function(frame, path) {
  con <- file(path, "wb")
  on.exit(close(con))
  ints <- function(x) writeBin(as.integer(x), con, endian = "little")
  names <- enc2utf8(names(frame))
  ints(c(length(frame), nrow(frame)))
  for (index in seq_along(frame)) {
    column <- plain(frame[[index]], names[index], nrow(frame))
    ints(c(match(column$kind, KINDS), nchar(names[index], "bytes")))
    writeLines(names[index], con, sep = "", useBytes = TRUE)
    if (column$kind %in% c("logical", "integer")) {
      ints(column$values)
    } else if (column$kind != "text") {
      writeBin(column$values, con, endian = "little")
    } else {
      bytes <- nchar(column$values, "bytes", keepNA = FALSE)
      bytes[is.na(column$values)] <- -1L
      ints(bytes)
      writeLines(column$values[!is.na(column$values)], con, sep = "", useBytes = TRUE)
    }
  }
}

# A column's kind and bare values; what no table can hold is refused by name.
plain <- function(x, name, rows) {
  refuse <- function(found, hint) {
    stop(sprintf("the column '%s' is %s; %s", name, found, hint), call. = FALSE)
  }
  if (inherits(x, "POSIXlt")) x <- as.POSIXct(x)
  if (is.factor(x)) x <- as.character(x)
  if (is.list(x)) refuse("a list column", "a table's column holds one value a row")
  if (length(dim(x)) > 1L) refuse("a matrix", "give each of its columns a name")
  if (inherits(x, "difftime")) {
    refuse("a time difference", "make it a number, as in as.numeric(x, units = \"secs\")")
  }
  if (length(x) != rows) refuse(paste(length(x), "values long"), paste("there are", rows, "rows"))
  special <- c("bigint", "Date", "POSIXct", "integer64")
  kind <- special[match(TRUE, special %in% class(x))]
  if (is.na(kind)) {
    kind <- switch(typeof(x),
      logical = "logical", integer = "integer", double = "double", character = "text",
      refuse(typeof(x), "make it text or a number")
    )
  }
  values <- unclass(x)
  attributes(values) <- NULL
  if (kind == "text") values <- enc2utf8(values)
  if (kind %in% c("Date", "POSIXct")) values <- as.double(values)
  list(kind = kind, values = values)
}
