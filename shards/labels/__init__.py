"""Labelled images where people have them: class folders, tables, saved data sets."""
