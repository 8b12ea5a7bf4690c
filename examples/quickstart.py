"""Predict the next frames of a video with a trained row: python examples/quickstart.py PROJECT ROW VIDEO OUT.mp4"""

import sys
from pathlib import Path

import torch

from components.video import video
from pipeline.commands.video_predictor import VideoPredictor

if len(sys.argv) != 5:
    sys.exit(f"usage: {(__doc__ or '').partition(': ')[2]}")
project, row, file, out = sys.argv[1:]
predictor = VideoPredictor.open(project, row)  # on a GPU if there is one
context = predictor.prepare(file, context=1)  # or uint8 frames of numpy or torch, of any size
frames = []
for step in predictor.stream(context, frames=16, seed=0):  # futures=4 predicts four at once, sets=8 changes the sampler
    moving = 1 - step.staticness.mean()
    print(f"frame {step.index}: {moving:.0%} moving" + ("" if step.canvas is None else ", canvas predicted first"))
    frames.append(step.frame[0])
clip = torch.cat([context.frames, torch.stack(frames)])
video.write(Path(out), clip, fps=8)
