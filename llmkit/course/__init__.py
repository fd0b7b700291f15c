"""What the course itself needs: checks, hints, kept answers, progress, GPU sections, the notebook builder."""

from llmkit.course.answers import answers_folder
from llmkit.course.check import check, hint, use_my_answers
from llmkit.course.gpu import gpu_section
from llmkit.course.progress import progress
from llmkit.course.session import start
