"""Every cure is installed before these tests import what it changes."""

from fairtale import compat, options

compat.install()
options.install()
