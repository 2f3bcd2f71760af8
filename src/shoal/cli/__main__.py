"""``python -m shoal.cli``: the ``shoal`` command where scripts are not on the path."""

from shoal.cli.app import main

main()
