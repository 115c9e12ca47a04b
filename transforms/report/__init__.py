"""Reports: self-contained HTML pages made of the JSON figures and a few examples."""
