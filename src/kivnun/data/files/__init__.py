"""Bytes become rows: what a folder holds, how a file is packed, encoded and laid out, read as a stream."""
