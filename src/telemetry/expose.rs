//! Prints all metrics in the OpenMetrics text format.
