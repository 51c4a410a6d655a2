/* The pilot in one row: ranges, gains, and where the spread comes from.
     predict ingest --home build/pilot && predict sql --home build/pilot "$(cat studies/lab/pilot.sql)" */
WITH first AS ( -- one RL seed a checkpoint: the design of every run of the study
    SELECT r.start_run_id, any_value(r.post_pass_at_1) AS y FROM rl_runs r WHERE r.rl_seed = 0 GROUP BY r.start_run_id
), points AS (
    SELECT c.*, first.y, first.y - c.start_pass_at_1 AS gain,
           avg(first.y) OVER (PARTITION BY c.base_model, c.length_mix, c.behaviors) AS group_mean,
           count(*) OVER (PARTITION BY c.base_model, c.length_mix, c.behaviors) AS group_size
    FROM checkpoints c JOIN first ON first.start_run_id = c.run_id
), seeds AS ( -- variance of an outcome over RL seeds, pooled over the checkpoints that have several
    SELECT sum(v * df) / sum(df) AS variance, sum(df) AS df
    FROM (SELECT var_samp(post_pass_at_1) AS v, count(*) - 1 AS df FROM rl_runs
          WHERE post_pass_at_1 IS NOT NULL GROUP BY start_run_id HAVING count(*) > 1)
)
SELECT count(*) AS checkpoints, count(DISTINCT base_model) AS bases,
       round(min(pass_at_1), 3) AS least_pass_at_1, round(max(pass_at_1), 3) AS most_pass_at_1,
       round(min(pass_at_64), 3) AS least_pass_at_64, round(max(pass_at_64), 3) AS most_pass_at_64,
       round(avg(gain), 3) AS mean_gain, round(stddev_samp(y), 3) AS outcome_sd,
       round(sqrt(sum((y - group_mean) ** 2) FILTER (group_size > 1)
             / (count(*) FILTER (group_size > 1) - count(DISTINCT (base_model, length_mix, behaviors)) FILTER (group_size > 1))), 3)
           AS sd_within_mix_and_base,
       round(any_value(sqrt(seeds.variance)), 4) AS rl_seed_sd, any_value(seeds.df) AS rl_seed_df,
       round(corr(pass_at_1, y), 2) AS r_pass_at_1, round(corr(pass_at_64, y), 2) AS r_pass_at_64,
       round(corr(gen_loss_style_free, y), 2) AS r_style_free, round(corr(mixed_share, y), 2) AS r_mixed_share
FROM points, seeds
