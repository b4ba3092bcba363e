"""Bringing files from elsewhere: several sources of the same bytes race, and the first whole file with the right sum wins.

Knows nothing of data sets, weights or networks: data/ and models/ say which files, from where, with which sum.
"""
