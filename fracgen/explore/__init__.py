"""`fracgen explore`: the server of a page on which data sets are looked at while they are set."""
