//! Classifier.
