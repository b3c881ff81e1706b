"""Lets a script run where stepalign is not installed: copy this file beside it, and import `attach` from here."""

try:
    from stepalign.workers import attach
except ImportError:

    class _Alone:
        attached = False

        def batches(self, loader=None, **_):
            return loader

        def step(self, *_, **__):
            pass

    def attach():
        return _Alone()
