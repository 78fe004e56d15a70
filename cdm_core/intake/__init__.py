"""The six forms in which a deletion request arrives, one module each: how it is signed, how it is parsed, and how it is answered.

`detection` tells the forms apart by their first bytes, `reception` gives the order of the checks, `senders` and `encodings` hold what the
forms share. Everything here is a function of bytes, keys and a time.
"""
