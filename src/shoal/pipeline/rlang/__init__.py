"""Flows in R: an ``.R`` file that declares tables, or ``@shoal.r`` in a Python file.

A real R runs the functions (``Rscript``, no packages needed), one process for each run of a flow,
in the project's folder. Tables go over as files of plain columns, so that types are kept: see
`shoal.pipeline.rlang.exchange`. In an R file::

    materialized_view("gold.fits",
      inputs = c(flights = "silver.flights"),
      comment = "One line per carrier",
      expect = c(fitted = "slope IS NOT NULL"),
      function(flights) {
        fits <- lapply(split(flights, flights$carrier), function(part) lm(delay ~ distance, part))
        data.frame(carrier = names(fits), slope = sapply(fits, function(fit) coef(fit)[2]))
      })

    streaming_table("silver.clean",
      inputs = c(raw = stream("bronze.raw")),
      function(raw) raw[!is.na(raw$x), ])

Both take ``name``, ``inputs``, the function, and ``comment``, ``partition_by``, ``schema`` (DDL),
``properties``, ``expect``, ``expect_or_drop``, ``expect_or_fail`` (named conditions) and
``timeout`` (seconds).
"""

from shoal.pipeline.rlang.declare import load_r, r

__all__ = ["load_r", "r"]
