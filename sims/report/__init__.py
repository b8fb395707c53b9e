"""What a run looked like: charts as data, drawn as SVG for a page or as PNG files."""
