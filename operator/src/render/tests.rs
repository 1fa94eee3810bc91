//! Tests of this step.
