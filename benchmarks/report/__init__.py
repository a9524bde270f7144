"""What a person sees of the benchmark's rows: tables, plots, a page, a comparison of two runs."""
