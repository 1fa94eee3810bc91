//! Bytes, tokens and line ends.
