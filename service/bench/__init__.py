"""How fast the service is on this machine, each figure beside its reference from the same run. It promises nothing.

`ingest`, `simulate` and `score` measure one room each and return `report.Figure`s; `publisher` and `subscriber` are the
child processes of `ingest`.
"""
