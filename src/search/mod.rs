//! Section 3.3: search for the optimal response with token or sentence feedback.
