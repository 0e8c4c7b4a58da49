"""One self-contained HTML page of a run or a sweep: no script from elsewhere, no font, no network. SVG by hand."""
