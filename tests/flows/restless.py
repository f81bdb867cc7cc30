"""A program that starts another one in a session of its own, as a Prefect worker does, and waits with it."""

import subprocess
import sys
import time

if __name__ == "__main__":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    time.sleep(60)
