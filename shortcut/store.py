"""What `python -m shortcut.store` was: `python -m shortcut`."""

import sys

if __name__ == "__main__":
    sys.exit(f"shortcut.store: now python -m shortcut {' '.join(sys.argv[1:])}".rstrip())
