"""The lake, the fleets and their health in a browser: *a page is a view of versions*.

Pages are drawn on the server from what the workspace offers, and kept as long as the versions they
were made from are the newest. What changes something starts the same commands that a terminal has.
"""

from shoal.ui.access import LOOPBACK, Access, fresh_token
from shoal.ui.app import create_ui
from shoal.ui.desk import Desk

__all__ = ["LOOPBACK", "Access", "Desk", "create_ui", "fresh_token"]
