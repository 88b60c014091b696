"""Parts of `weight_statistics`: order statistics, inner products, and what `prepare` looks for."""
