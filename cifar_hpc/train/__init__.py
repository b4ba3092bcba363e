"""The one training loop and what it stands on. Knows tensors and trials; knows nothing of sweeps, executors or reports.

One step of training, from the top of `loop.train_epoch` down:

1. `loop.steps_of_epoch` gives the step's images: places in a shuffle that (seed, epoch) alone decide, the same in every
   company.
2. `features.Feed.train_batch` draws from the generator of (seed, "augment", epoch, step), gathers and augments the images
   once for the whole cohort, and runs the frozen trunk (`features.Trunk`) once, without gradients, keeping its output at
   every depth that a member has. Without augmentation those outputs were computed once for the split and are gathered
   instead.
3. Members whose whole trainable part is one linear layer are stepped as one batch by `probes`: closed-form gradient, and the
   update rule that the optimiser's entry in config/registry.py names. All others step one by one:
4. `member.Member.train_step` sets each parameter group's rate from `config.schedule.LrSchedule`, by the block's height; runs
   its own suffix forward and backward, in parts where the memory asks for it; averages gradients over the processes of the
   world; clips; lets `optimizers` step; moves the average of the weights; adds up loss and hits on the device.
5. `loop` gives the hooks their turn: a checkpoint that is due, a claim that was lost, a signal to stop.

After the last step `loop.evaluate` measures validation for the cohort at once and `member.Member.end_epoch` writes the curve,
keeps the best weights and decides whether the trial is over. Everything random is seeded by (seed, purpose, epoch, step);
nothing depends on who trains beside whom. `classifiers` are members that are fitted in their only epoch; `lr_finder` is a
member that is thrown away.
"""
