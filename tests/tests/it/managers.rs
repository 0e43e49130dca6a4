//! Policies of managers with real clients.

mod swaps;
