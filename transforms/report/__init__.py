"""The pages that people read: one self-contained HTML file each, made of JSON figures and a few examples."""
