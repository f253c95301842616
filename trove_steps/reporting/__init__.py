"""The report: `collect` reads results and cache, `statistics` judges differences, `page` writes the HTML."""
