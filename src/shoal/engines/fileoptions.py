"""Options of file readers: Spark's, and Auto Loader's ``cloudFiles.*``.

Sources: Spark SQL guide, "Data Sources"; Databricks, "Auto Loader options". A name that is none of
them is refused where it looks like a slip; other strange names are left out, as Spark leaves them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from shoal.errors import PipelineError, nearest

__all__ = ["FORMATS", "MODES", "byte_count", "check_options", "loader_option"]

FORMATS = ("avro", "binaryfile", "csv", "json", "orc", "parquet", "text")
MODES = ("addNewColumns", "rescue", "failOnNewColumns", "none")

_LOADER = [
    "allowOverwrites",
    "backfillInterval",
    "cleanSource",
    "cleanSource.moveDestination",
    "cleanSource.retentionDuration",
    "format",
    "includeExistingFiles",
    "inferColumnTypes",
    "maxBytesPerTrigger",
    "maxFileAge",
    "maxFilesPerTrigger",
    "partitionColumns",
    "resourceTags",
    "rescuedDataColumn",
    "schemaEvolutionMode",
    "schemaHints",
    "schemaLocation",
    "useIncrementalListing",
    "useManagedFileEvents",
    "useNotifications",
    "useStrictGlobber",
    "validateOptions",
]
_READER = [
    "columnNameOfCorruptRecord",
    "comment",
    "dateFormat",
    "delimiter",
    "encoding",
    "charset",
    "enforceSchema",
    "escape",
    "header",
    "ignoreCorruptFiles",
    "ignoreLeadingWhiteSpace",
    "ignoreMissingFiles",
    "ignoreTrailingWhiteSpace",
    "inferSchema",
    "maxFilesPerTrigger",
    "maxFileAge",
    "latestFirst",
    "mergeSchema",
    "mode",
    "modifiedAfter",
    "modifiedBefore",
    "multiLine",
    "nullValue",
    "path",
    "pathGlobFilter",
    "prefersDate",
    "preferDate",
    "primitivesAsString",
    "quote",
    "readerCaseSensitive",
    "recursiveFileLookup",
    "rescuedDataColumn",
    "samplingRatio",
    "schemaEvolutionMode",
    "schemaHints",
    "sep",
    "timestampFormat",
    "timestampNTZFormat",
    "wholetext",
]
# They change what rows there are, and the embedded engine's readers do not follow them.
_NOT_HERE = [
    "allowBackslashEscapingAnyCharacter",
    "allowComments",
    "allowNonNumericNumbers",
    "allowNumericLeadingZeros",
    "allowSingleQuotes",
    "allowUnquotedControlChars",
    "allowUnquotedFieldNames",
    "avroSchema",
    "charToEscapeQuoteEscaping",
    "datetimeRebaseMode",
    "dropFieldIfAllNull",
    "emptyValue",
    "lineSep",
    "locale",
    "maxCharsPerColumn",
    "maxColumns",
    "nanValue",
    "negativeInf",
    "positiveInf",
    "timeZone",
    "unescapedQuoteHandling",
]
_HARMLESS = {"allownonnumericnumbers", "maxcharspercolumn", "maxcolumns", "datetimerebasemode"}


def loader_option(options: Mapping[str, str], name: str) -> str | None:
    """An option of the Auto Loader that may also be given without ``cloudFiles.``."""
    key = name.lower()
    return options.get(f"cloudfiles.{key}", options.get(key))


def byte_count(text: str) -> int:
    """Bytes that an option says: ``10g``, ``500mb``, ``4096``.

    Raises:
        PipelineError: It is no such text.
    """
    found = re.fullmatch(r"(\d+) *([kmgt]?)b?", text.strip().lower())
    if found is None:
        raise PipelineError(f"maxBytesPerTrigger is '{text}'.", hint="Write it like 10g or 500mb.")
    return int(found.group(1)) << 10 * " kmgt".index(found.group(2) or " ")


def check_options(kind: str, options: Mapping[str, str], *, embedded: bool = True) -> None:
    """Refuses options that are misspelt, or that mean something that is not done.

    Args:
        kind: The files' format.
        options: Reader options, names in lower case.
        embedded: The engine's own readers do not do the reading.

    Raises:
        PipelineError: The message has the option and the nearest valid one.
    """
    if kind.lower() not in FORMATS:
        close = nearest(kind, ["binaryFile" if f == "binaryfile" else f for f in FORMATS])
        raise PipelineError(
            f"'{kind}' is no format of files that can be read here.",
            hint=f"Did you mean '{close}'?" if close else f"Formats: {', '.join(FORMATS)}",
        )
    loader = {name.lower(): name for name in _LOADER}
    reader = {name.lower(): name for name in (*_READER, *_NOT_HERE)}
    for key in options:
        name = key.removeprefix("cloudfiles.")
        if name != key and name not in loader:
            close = nearest(name, loader)
            raise PipelineError(
                f"Auto Loader has no option '{_spelt(key)}'.",
                hint=f"Did you mean 'cloudFiles.{loader[close]}'?"
                if close
                else f"It has: {', '.join(_LOADER)}",
            )
        if name == key and name not in reader and (close := _slip(name, reader)):
            raise PipelineError(
                f"The {kind} reader has no option '{key}'.",
                hint=f"Did you mean '{reader[close]}'?",
            )
        if embedded and name == key and reader.get(name) in _NOT_HERE and name not in _HARMLESS:
            raise PipelineError(
                f"The reader option '{reader[name]}' is not supported by the embedded engine.",
                hint="Leave it out, or run the project on Apache Spark.",
            )
    _check_values(options)


def _spelt(key: str) -> str:
    return key.replace("cloudfiles.", "cloudFiles.")


def _slip(name: str, known: Mapping[str, str]) -> str | None:
    """The option that a name is a slip of; None for a name that is simply another."""
    import difflib

    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.8)
    return found[0] if found else None


def _check_values(options: Mapping[str, str]) -> None:
    if options.get("cloudfiles.cleansource", "off").lower() != "off":
        raise PipelineError(
            "cloudFiles.cleanSource is not supported: Shoal never moves or deletes input files.",
            hint="Take the option out, and remove files that are read yourself.",
        )
    if options.get("cloudfiles.usenotifications", "false").lower() == "true":
        raise PipelineError(
            "cloudFiles.useNotifications is not supported: new files are found by listing.",
            hint="Take the option out.",
        )
    mode = loader_option(options, "schemaEvolutionMode")
    if mode is not None and mode.lower() not in {known.lower() for known in MODES}:
        close = nearest(mode, MODES)
        raise PipelineError(
            f"schemaEvolutionMode is '{mode}'.",
            hint=f"Did you mean '{close}'?" if close else f"Use one of {', '.join(MODES)}.",
        )
    most = loader_option(options, "maxFilesPerTrigger")
    if most is not None and (not most.isdigit() or not int(most)):
        raise PipelineError(f"maxFilesPerTrigger is '{most}'; it must be a number above 0.")
    if (limit := loader_option(options, "maxBytesPerTrigger")) is not None:
        byte_count(limit)
