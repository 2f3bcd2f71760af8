# R has no 64-bit integers. A BIGINT column is a double of the class "bigint", exact up to 2^53. It
# behaves like R's own integers: with integers it stays whole, with doubles it becomes a double; only
# sum(), max() and the like give doubles, of which bigint() makes BIGINT again.

bigint <- function(x) structure(as.double(x), class = "bigint")

whole <- function(...) {
  all(vapply(list(...), function(x) inherits(x, "bigint") || typeof(x) %in% c("integer", "logical"), NA))
}

bigint_methods <- list(
  "[" = function(x, ...) bigint(unclass(x)[...]),
  "[[" = function(x, ...) bigint(unclass(x)[[...]]),
  "[<-" = function(x, ..., value) {
    kept <- whole(value)
    x <- unclass(x)
    x[...] <- unclass(value)
    if (kept) bigint(x) else x
  },
  c = function(...) {
    values <- unlist(lapply(list(...), unclass))
    if (whole(...)) bigint(values) else values
  },
  rep = function(x, ...) bigint(rep(unclass(x), ...)),
  unique = function(x, ...) bigint(unique(unclass(x), ...)),
  xtfrm = function(x) unclass(x),
  mtfrm = function(x) unclass(x),
  as.character = function(x, ...) {
    text <- sprintf("%.0f", unclass(x))
    text[is.na(x)] <- NA
    text
  },
  format = function(x, ...) format(as.character(x), justify = "right"),
  print = function(x, ...) {
    print(as.character(x), quote = FALSE)
    invisible(x)
  },
  as.data.frame = as.data.frame.vector,
  Ops = function(e1, e2) {
    if (missing(e2)) {
      return(bigint(get(.Generic)(unclass(e1))))
    }
    values <- get(.Generic)(unclass(e1), unclass(e2))
    if (.Generic %in% c("+", "-", "*", "%%", "%/%") && whole(e1, e2)) bigint(values) else values
  },
  Math = function(x, ...) {
    values <- get(.Generic)(unclass(x), ...)
    stays <- c("abs", "round", "floor", "ceiling", "trunc", "cumsum", "cummax", "cummin")
    if (.Generic %in% stays) bigint(values) else values
  },
  # Plain doubles: data.frame() repeats a single value only when it has no class of its own.
  Summary = function(..., na.rm = FALSE) {
    do.call(.Generic, c(lapply(list(...), unclass), na.rm = na.rm))
  }
)

for (generic in names(bigint_methods)) {
  if (exists(generic, baseenv()) || generic %in% c("Ops", "Math", "Summary")) {
    registerS3method(generic, "bigint", bigint_methods[[generic]], baseenv())
  }
}
