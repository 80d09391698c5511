"""A finished run as files that other programs take: what each file holds, and how it is written
whole or not at all.
"""
