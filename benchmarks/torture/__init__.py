"""Faults found by attack: kills, full disks, locked files, clocks, twins, and command lines drawn
at random.
"""
