"""Install every work-around before these tests import the modules that it changes."""

from fairtale import compat, options

compat.install()
options.install()
