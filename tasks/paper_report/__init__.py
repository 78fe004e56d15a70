"""Behind `lethe report paper`: what it trains, samples and measures. Each cell is kept under its content's digest, for a rerun to reuse."""
