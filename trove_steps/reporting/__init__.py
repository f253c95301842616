"""The report: `collect` reads results and cache, `statistics` judges differences, `page` writes the HTML.

`shortfalls` are results that hold nothing of use; steps and the end of a run tell of them too.
"""
