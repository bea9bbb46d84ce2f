"""The video decoder: a program of its own, which `model.video.process` starts and speaks with over sockets.

It imports PyAV, which brings FFmpeg into the process, and nothing else of this project; no other process imports PyAV.
`docs/security.md` says why. It works in two roles. The *starter* has imported PyAV and waits. For each video it forks a
*worker*, which reads this video only and ends. So a worker starts in milliseconds, and its memory has never held the
pixels of another video.
"""
