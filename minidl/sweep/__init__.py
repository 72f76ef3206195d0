"""``minidl sweep``: what pruning and fewer bits cost in accuracy and gain in bytes and milliseconds, all measured.

command.py    the arguments; prints, writes
runs.py       trains, compresses, measures, one point after the other; goes on where it was killed
points.py     what points come to over seeds, and which of them are dominated
picture.py    accuracy over bytes and over time
"""
