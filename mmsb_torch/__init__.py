"""mmsb_torch."""
