"""Learning from preferences and rewards: reward models, DPO, PPO, GRPO, and the exact optimum they are judged by."""
