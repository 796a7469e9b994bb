"""BibTeX of the papers whose data sets are rendered; data cards hold it."""

SCALING_BACKWARDS = """@inproceedings{nakamura2024scaling,
  title     = {Scaling Backwards: Minimal Synthetic Pre-training?},
  author    = {Nakamura, Ryo and Tadokoro, Ryu and Yamada, Ryosuke and Asano, Yuki M. and Laina, Iro and
               Rupprecht, Christian and Inoue, Nakamasa and Yokota, Rio and Kataoka, Hirokatsu},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year      = {2024}
}"""
FRACTALDB = """@inproceedings{kataoka2020pretraining,
  title     = {Pre-training without Natural Images},
  author    = {Kataoka, Hirokatsu and Okayasu, Kazushige and Matsumoto, Asato and Yamagata, Eisuke and
               Yamada, Ryosuke and Inoue, Nakamasa and Nakamura, Akio and Satoh, Yutaka},
  booktitle = {Asian Conference on Computer Vision (ACCV)},
  year      = {2020}
}"""
OFDB = """@inproceedings{nakamura2023pretraining,
  title     = {Pre-training Vision Transformers with Very Limited Synthesized Images},
  author    = {Nakamura, Ryo and Kataoka, Hirokatsu and Takashima, Sora and Noriega, Edgar Josafat Martinez and
               Yokota, Rio and Inoue, Nakamasa},
  booktitle = {IEEE/CVF International Conference on Computer Vision (ICCV)},
  year      = {2023}
}"""
VISUAL_ATOMS = """@inproceedings{takashima2023visual,
  title     = {Visual Atoms: Pre-training Vision Transformers with Sinusoidal Waves},
  author    = {Takashima, Sora and Hayamizu, Ryo and Inoue, Nakamasa and Kataoka, Hirokatsu and Yokota, Rio},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2023}
}"""
RCDB = """@inproceedings{kataoka2022replacing,
  title     = {Replacing Labeled Real-image Datasets with Auto-generated Contours},
  author    = {Kataoka, Hirokatsu and Hayamizu, Ryo and Yamada, Ryosuke and Nakashima, Kodai and Takashima, Sora and
               Zhang, Xinyu and Martinez-Noriega, Edgar Josafat and Inoue, Nakamasa and Yokota, Rio},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2022}
}"""
EXFRACTALDB = RCDB
"""The same paper has both."""
MULTIFRACTAL = """@inproceedings{anderson2022improving,
  title     = {Improving Fractal Pre-training},
  author    = {Anderson, Connor and Farrell, Ryan},
  booktitle = {IEEE/CVF Winter Conference on Applications of Computer Vision (WACV)},
  year      = {2022}
}"""
