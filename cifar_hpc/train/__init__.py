"""The one training loop and what it stands on. Knows tensors and trials; knows nothing of sweeps, executors or reports.

One step of training, from the top of `loop.train_epoch` down:

1. `steps.Plan` gives the step's images: places in a shuffle that (seed, epoch) alone decide, the same in every company. It
   draws what augments them from the generator of (seed, "augment", epoch, step). What the host knows of an epoch's steps
   beforehand, `tables.Table` lays on the device: indices, draws, learning rates, a row a step.
2. `steps.Stepper.step` takes the row and `features.Feed.batch` gathers and augments the images once for the whole cohort, and
   runs the frozen trunk (`features.Trunk`) once, without gradients, keeping its output at every depth that a member has.
   Without augmentation those outputs were computed once for the split and are gathered instead.
3. Members whose whole trainable part is one linear layer are stepped as one batch by `probes.Probes` on a `stack.Stack`:
   closed-form gradient, and the update rule that the optimiser's entry in config/registry.py names; on a CPU piece by piece,
   each on one thread (`lanes`). All others step one by one:
4. `member.Member.train_step` sets each parameter group's rate (`config.schedule.LrSchedule`, by the block's height) and seeds
   what dropout draws from. `micro_batches.MicroBatches` runs the member's own suffix forward and backward, in parts where the
   memory asks for it, and averages gradients over the processes of the world. They are clipped, the optimiser of `optimizers`
   steps, `average.Average` follows the weights, `progress.Sums` adds up loss and hits on the device.
5. On a GPU steps 2 to 4 are captured as one CUDA graph (`graphs.Captured`) and replayed, row after row. `clock.Clock` charges
   each member with its time.
6. `loop.Cohort.look` gives the hooks their turn: a checkpoint that is due, a claim that was lost, a signal to stop.

After the last step `evaluation.Evaluator` measures validation for the cohort at once (a GPU replays it) and
`member.Member.end_epoch` writes the curve; `early_stopping.EarlyStopping` judges whether the epoch is the best, whose weights
`member.keep_best` keeps, and whether the trial is over. Everything random is seeded by (seed, purpose, epoch, step); nothing
depends on who trains beside whom. `classifiers` are members that are fitted in their only epoch; `lr_finder` is a member that
is thrown away.
"""
