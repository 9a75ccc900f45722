//! The step log of the workflows.
