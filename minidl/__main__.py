"""``python -m minidl`` is the command ``minidl``."""

from minidl.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
