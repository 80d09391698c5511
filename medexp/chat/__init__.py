"""Asking a finished run: its answers as they come, a conversation on the terminal, and a page
beside the base model.
"""
