"""For every test: Ctrl-C works, also where a shell began the tests in the background, which has them ignore interrupts."""

import signal

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
