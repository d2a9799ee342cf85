"""What the robustness scripts share: commands to interrupt, and how to."""
