#!/bin/sh
# Prints the first Python 3.11-3.13 that can create virtual environments; else says what is missing, exit 1.
# Usage: find_python.sh [PYTHON]      with an argument, only that one is tried.
test_code='
import sys
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit("is Python %d.%d.%d" % sys.version_info[:3])
try:
    import ensurepip, venv
except ImportError:
    sys.exit("has no venv module (Debian, Ubuntu: apt install python%d.%d-venv)" % sys.version_info[:2])
print(sys.executable)
'
if [ -n "$1" ]; then candidates=$1; else candidates="python3 python3.12 python3.11 python3.13 python"; fi

tried=""
for candidate in $candidates; do
    if ! command -v "$candidate" >/dev/null 2>&1; then
        answer="is not there"
    elif answer=$("$candidate" -c "$test_code" 2>&1); then
        echo "$answer"
        exit 0
    fi
    case $answer in "is "* | "has "*) ;; *) answer="does not run" ;; esac
    tried="$tried, $candidate $answer"
done
echo "attngraph needs Python 3.11, 3.12 or 3.13 with its venv module, but ${tried#, }." \
    "Install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2
exit 1
