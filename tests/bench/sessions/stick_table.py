"""What lies in the stick table `web` of an HAProxy, asked on its socket.

stick_table.py used SOCKET              how many entries
stick_table.py missing FILE SOCKET...   how many keys of the file, one a line, lie in none of them
"""

import re
import socket
import sys


def table(path, first_line_only=False):
    """The answer to `show table web`."""
    with socket.socket(socket.AF_UNIX) as asked:
        asked.connect(path)
        asked.sendall(b"show table web\n")
        answer = bytearray()
        while chunk := asked.recv(1 << 16):
            answer += chunk
            if first_line_only and b"\n" in answer:
                break
    return answer.decode()


def main():
    if sys.argv[1] == "used":
        print(re.search(r"used:(\d+)", table(sys.argv[2], first_line_only=True))[1])
        return
    with open(sys.argv[2]) as file:
        keys = set(file.read().split())
    for path in sys.argv[3:]:
        keys -= set(re.findall(r"key=(\S+)", table(path)))
    print(len(keys))


main()
