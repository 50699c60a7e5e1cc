//! Fitting a codebook: exact Lloyd from k-means++.
