"""What the shell starts: `imptool`, and `python -m imptool`. Ctrl-C is one line also while the command line is imported."""

import signal
import sys


def main() -> None:
    try:
        from imptool.cli import main

        main()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing is left to stop but the interpreter's own end


if __name__ == "__main__":
    main()
