"""The figures of the report, one file each: plain Plotly JSON, coloured by the page's style sheet."""
