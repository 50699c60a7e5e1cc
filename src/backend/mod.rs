//! What calls foreign code or the processor directly, behind safe functions.
